"""SM-RL (Wang, Huang and Wang, CVPR 2019): reads single frames and detects the moment. From description.

No code was published and the STRONG paper names only its idea, so this is built from the description: at each of N
steps the agent reads one frame, joins it with semantic concepts, its position and the sentence in an LSTM, and returns
a window (detection), whether the sentence matches the frame (matching score), whether the detection is reliable
(indicator), and the next position. It does not move a window: the environment gives it the frame at a position
(`TemporalTask.observe` of a window of one frame), the IoU, and the reward `rewards.hit_reward`.

Losses: cross-entropy of the matching score, with one mismatched sentence for every matched one; smooth L1 of the
detection in every step; REINFORCE with a moving baseline on indicator and next position, with reward +1 where the
chosen detection has an IoU above .5, else -1.

Not published, hence ours:

- *Concepts* are the words of the training sentences without the commonest function words: no tagger picks nouns and
  verbs. Their head is linear, trained first on the frames of the true moments, and then kept.
- *The first position* is the middle. Learning rate, batch, and the weights of the losses: those of REINFORCE are
  small, because the log-probability of a position has a slope of 1 / sigma and would outweigh the detection's loss.
- *Mismatched sentences* are those of another sample in the batch with another text. They have episodes of their own.
- *The chosen detection* in training is the one with the indicator on and the highest match, as at test; where no
  indicator is on, the highest match of all.
- Detections are made of centre and length, so that they are never empty or inverted.

Deviations of ``preset="default"``: sizes of 16 to 64 instead of 128 and 1024, standardised inputs, dropout, weight
decay and early stopping on the validation part, the detection of the last look as the answer (``answer``), and
positions that begin as an even sweep over the video (``sweep``), with uniform positions in a fifth of the episodes
(``explore``): with a standard deviation of .08, positions that begin in the middle stay there, and detection never
learns from the rest of a video. ``preset="described"`` is the description.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.sequential import TemporalSystem, nearest_truth, standardiser_batch
from strong_envs.agents.ranges import check_fields
from strong_envs.agents.registry import OWN_REWARDS_AND_WINDOWS, Prediction, ProgressCallback, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.training.early_stopping import BestWeights, validation_part
from strong_envs.agents.training.networks import Standardise
from strong_envs.core import rewards, spans
from strong_envs.core.validation import check_choice
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.temporal.task import TemporalConfig, TemporalTask

FUNCTION_WORDS = frozenset([
    "a", "an", "the", "and", "or", "of", "to", "in", "on", "at", "by", "for", "from", "with", "as", "is", "are",
    "was", "were", "be", "been", "it", "its", "it's", "he", "she", "they", "them", "his", "her", "their", "this",
    "that", "there", "then", "when", "where", "while", "who", "which", "what", "how", "into", "onto", "out", "up",
    "down", "off", "over", "under",
])  # fmt: skip
REPORT_EVERY = 50
SHORTEST = 0.02
"""The shortest detection, as a fraction of the video."""


@dataclass(frozen=True)
class SmrlArgs:
    """Arguments of `SmRl`; the defaults are ``preset="default"``."""

    steps: int = 1_200
    """Updates."""
    batch: int = 128
    """Samples in an update; as many mismatched pairs come with them."""
    looks: int = 6
    """Frames read, N."""
    sigma: float = 0.08
    """Standard deviation of the next position in training, as a fraction of the video."""
    sweep: bool = True
    """Whether the untrained policy sweeps the video evenly; else it begins in the middle."""
    explore: float = 0.2
    """Share of the training episodes with uniform positions; they train detection and matching."""
    baseline: float = 0.9
    """Share of the old baseline that stays at each update."""
    hit: float = 0.5
    """The IoU above which a detection is rewarded."""
    match_weight: float = 1.0
    detection_weight: float = 20.0
    policy_weight: float = 0.05
    dropout: float = 0.1
    """Share of the inputs of the LSTM, and of its memory before the heads, that training leaves out."""
    weight_decay: float = 0.01
    lr: float = 4e-3
    decay: bool = True
    """Whether the learning rate falls linearly to zero."""
    clip: float = 1.0
    """Largest norm of a gradient; 0 leaves it."""
    sizes: tuple[int, int, int, int] = (48, 32, 16, 48)
    """Widths after the layers of the frame, the concepts, the position and the sentence."""
    hidden: int = 64
    """Width of the LSTM."""
    concepts: int = 100
    """Words that become concepts, the commonest first."""
    concept_least: int = 5
    """Sentences that a concept must occur in."""
    concept_steps: int = 300
    """Updates of the head of concepts before the agent learns."""
    standardise: bool = True
    answer: str = "last"
    """``"best"``: the detection with the indicator on and the highest match, as described; ``"last"``: that of the last
    look, which has seen the most (27.2 instead of 24.9 mIoU on validation, easy level, one seed)."""
    early_stopping: bool = True
    """Keep the weights that are best on the validation part, where the store has one."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice(self.answer, "answer", ("best", "last"))


SPACE: Space = {
    "lr": Between(5e-4, 1e-2),
    "weight_decay": Between(0.003, 1.0),
    "dropout": OneOf(0.0, 0.1, 0.3, 0.5),
    "hidden": OneOf(32, 64, 128),
    "detection_weight": Between(5.0, 80.0),
    "policy_weight": Between(0.01, 0.5),
    "answer": OneOf("best", "last"),
}


class SmrlEpisode(NamedTuple):
    """N steps of a batch of episodes.

    Positions (N, B) in [0, 1], detections (N, B, 2) fractions of the video, matching scores, indicator logits and
    log-probabilities of the draws (N, B), indicators (N, B) bool.
    """

    position: Tensor
    detection: Tensor
    match: Tensor
    indicator: Tensor
    on: Tensor
    log_prob: Tensor


class SmrlNetwork(nn.Module):
    """Layers of the four inputs, an LSTM, and four heads.

    Args:
        shapes: named parts of the observation, from `TemporalTask.dims`.
        concepts: number of words of the head.
        args: see `SmrlArgs`.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], concepts: int, args: SmrlArgs) -> None:
        super().__init__()
        width = {name: torch.Size(shapes[name]).numel() for name in ("local", "query")}
        self.frame_inputs = Standardise({"local": shapes["local"]})
        self.query_inputs = Standardise({"query": shapes["query"]})
        self.concepts = nn.Linear(width["local"], concepts)
        frame, concept, position, query = args.sizes
        self.frame = nn.Linear(width["local"], frame)
        self.concept = nn.Linear(concepts, concept)
        self.position = nn.Linear(1, position)
        self.query = nn.Linear(width["query"], query)
        self.dropout = nn.Dropout(args.dropout)
        self.memory = nn.LSTMCell(sum(args.sizes), args.hidden)
        self.detection = nn.Linear(args.hidden, 2)
        self.match = nn.Linear(args.hidden, 1)
        self.indicator = nn.Linear(args.hidden, 1)
        self.following = nn.Linear(args.hidden, 1)

    def read(self, query: Tensor) -> Tensor:
        """Sentences (B, Dq) to (B, size), once for all steps."""
        return torch.relu(self.query(self.query_inputs({"query": query})))

    def step(
        self, words: Tensor, frame: Tensor, position: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor]:
        """One step: `read` sentences, frames (B, D) and positions (B,) to the memory and the four heads.

        Detections (B, 2) as start and end in fractions of the video, matching scores and indicators (B,) as logits,
        next positions (B,) before their sigmoid.
        """
        seen = self.frame_inputs({"local": frame})
        # The concepts were trained on their own and stay fixed.
        known = torch.sigmoid(self.concepts(seen)).detach()
        parts = (self.frame(seen), self.concept(known), self.position(2 * position[:, None] - 1))
        joined = torch.cat([*(torch.relu(part) for part in parts), words], 1)
        memory = self.memory(self.dropout(joined), memory)
        h = self.dropout(memory[0])
        middle, length = torch.sigmoid(self.detection(h)).unbind(-1)
        half = SHORTEST / 2 + (1 - SHORTEST) * length / 2
        detection = torch.stack(((middle - half).clamp(min=0), (middle + half).clamp(max=1)), -1)
        match, indicator = self.match(h).squeeze(-1), self.indicator(h).squeeze(-1)
        return memory, detection, match, indicator, self.following(h).squeeze(-1)


def concept_words(texts: list[str], most: int, least: int) -> list[str]:
    """The commonest words of sentences, function words left out: at most ``most``, in ``least`` sentences or more."""
    counts = Counter(word for text in texts for word in set(re.findall(r"[a-z']+", text.lower())))
    kept = [(word, n) for word, n in counts.items() if n >= least and word not in FUNCTION_WORDS]
    ranked = sorted(kept, key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked[:most]]


def choose(match: Tensor, on: Tensor) -> Tensor:
    """The step (B,) of (N, B) with the highest match with the indicator on, or of all where it is never on."""
    lowest = torch.finfo(match.dtype).min
    return torch.where(on | ~on.any(0), match, lowest).argmax(0)


def smrl_loss(
    episode: SmrlEpisode, mismatch: Tensor, truth: Tensor, reward: Tensor, baseline: Tensor, args: SmrlArgs
) -> dict[str, Tensor]:
    """The parts of the loss, weighted: their sum is minimised.

    Args:
        episode: of the matched pairs.
        mismatch: matching scores (N, B) of the mismatched ones.
        truth: (B, 2) fractions of the video.
        reward: (B,).
        baseline: its moving mean, a scalar.
        args: the weights.
    """
    bce = nn.functional.binary_cross_entropy_with_logits
    match = bce(episode.match, torch.ones_like(episode.match)) + bce(mismatch, torch.zeros_like(mismatch))
    detection = nn.functional.smooth_l1_loss(episode.detection, truth.expand_as(episode.detection))
    policy = -(episode.log_prob.sum(0) * (reward - baseline)).mean()
    return {
        "match": args.match_weight * match / 2,
        "detection": args.detection_weight * detection,
        "policy": args.policy_weight * policy,
    }


def inside_truth(truth: Tensor, where: Tensor) -> Tensor:
    """Positions inside the true windows: windows (B, K, 2) and shares (B,) in [0, 1] to (B,) float32.

    The windows of a sample are laid end to end; a window that repeats the one before it counts once.
    """
    low, high = truth.to(torch.float32).unbind(-1)
    repeated = nn.functional.pad((truth[:, 1:] == truth[:, :-1]).all(-1), (1, 0))
    length = torch.where(repeated, 0.0, high - low)
    after = length.cumsum(1)
    at = where * after[:, -1]
    # The window that the position falls into: the first whose end it does not exceed.
    pick = (at[:, None] > after).sum(1, keepdim=True).clamp(max=length.shape[1] - 1)
    before = (after - length).gather(1, pick)[:, 0]
    return low.gather(1, pick)[:, 0] + (at - before)


class SmRl(TemporalSystem):
    """SM-RL under the interface of systems; options are `SmrlArgs`."""

    PRESETS: ClassVar[dict[str, tuple[SmrlArgs, TemporalConfig]]] = {
        "default": (SmrlArgs(), TemporalConfig(context=False)),
        "described": (
            SmrlArgs(
                sizes=(1024, 1024, 128, 1024),
                hidden=1024,
                standardise=False,
                explore=0.0,
                sweep=False,
                dropout=0.0,
                weight_decay=0.0,
                early_stopping=False,
                answer="best",
            ),
            TemporalConfig(context=False),
        ),
    }
    args: SmrlArgs
    network: SmrlNetwork

    def __init__(self, bank: FeatureBank, *args: Any, words: list[str] | None = None, **kwargs: Any) -> None:
        self._words = words
        super().__init__(bank, *args, **kwargs)

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist or lie outside their range."""
        super().check_arguments(**{name: value for name, value in arguments.items() if name != "words"})

    def build(self, task: TemporalTask) -> SmrlNetwork:
        """The network, with one concept for each frequent word of the training sentences."""
        words = self._words or concept_words(task.bank.texts, self.args.concepts, self.args.concept_least)
        # A store without a common word still needs a layer to train.
        self.words = words or ["?"]
        return SmrlNetwork(self.input_shapes(task), len(self.words), self.args).eval()

    def input_shapes(self, task: TemporalTask) -> dict[str, tuple[int, ...]]:
        """Shapes of a frame, "local", and of a sentence, "query"."""
        return task.dims()

    def remember(self) -> dict[str, Any]:
        """The words of the concepts."""
        return {"words": self.words}

    @classmethod
    def recall(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """The words of the concepts."""
        words = about.get("words")
        if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
            raise DataError("words must be a list of words")
        return {"words": words}

    def draw(self, generator: torch.Generator) -> Tensor:
        """The samples (B,) of an update."""
        return torch.randint(len(self.bank), (self.args.batch,), generator=generator)

    def train(self, report: ProgressCallback | None) -> None:
        """Concepts first, then the agent."""
        self.network.train()
        try:
            # Dropout draws from PyTorch's own generator.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self._train(report)
        finally:
            self.network.eval()

    def _train(self, report: ProgressCallback | None) -> None:
        args, task, network = self.args, self.task, self.network
        generator = torch.Generator().manual_seed(self.seed)
        if args.standardise:
            batch = standardiser_batch(task, generator)
            batch["local"] = self._frame(task, *self._anywhere(generator, len(batch["query"])))
            network.frame_inputs.fit(batch)
            network.query_inputs.fit(batch)
        self._train_concepts(generator)
        learning = [p for name, p in network.named_parameters() if not name.startswith("concepts.")]
        optimiser = torch.optim.AdamW(learning, args.lr, weight_decay=args.weight_decay, fused=True)
        text = {one: i for i, one in enumerate(sorted(set(self.bank.texts)))}
        texts = torch.tensor([text[one] for one in self.bank.texts])
        baseline = torch.zeros((), device=self.bank.device)
        # Boxes that are given as numbers are those of the training part alone.
        stops = args.early_stopping and not isinstance(self.boxes, Tensor)
        held_out = validation_part(self.bank) if stops else None
        best = None if held_out is None else BestWeights(network, partial(self._miou, held_out), args.steps)
        for update in range(args.steps):
            if args.decay:
                for group in optimiser.param_groups:
                    group["lr"] = args.lr * max(1 - update / args.steps, 0.02)
            samples = self.draw(generator)
            losses, reward = self.losses(samples, texts, baseline, generator)
            optimiser.zero_grad(set_to_none=True)
            cast(Tensor, sum(losses.values())).backward()
            if args.clip:
                nn.utils.clip_grad_norm_(learning, args.clip)
            optimiser.step()
            mean = reward.mean()
            baseline = args.baseline * baseline + (1 - args.baseline) * mean
            if best is not None:
                best.after_update(update + 1, update + 1 == args.steps)
            if report is not None and update % REPORT_EVERY == 0:
                scalars = {name: float(value.detach()) for name, value in losses.items()}
                report("training", update + 1, args.steps, {**scalars, "reward": float(mean)})
        if best is not None:
            best.restore()

    def _miou(self, bank: FeatureBank) -> float:
        """Mean IoU of predictions for a bank with its truth."""
        task = self.make_task(bank)
        samples = torch.arange(len(bank), device=bank.device)
        start, end = (self.locate(task, samples).spans / task.seconds[:, None]).unbind(-1)
        return float(task.iou(samples, start, end, "clamped").mean())

    def losses(
        self, samples: Tensor, texts: Tensor, baseline: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and rewards (B,) of samples (B,); equal entries of ``texts`` (S,) are equal sentences of the bank.

        A mismatched sentence is that of the next sample of the batch; where it is the same one, nothing is learnt from
        the pair.
        """
        args, task = self.args, self.task
        other = samples.roll(1)
        differs = (texts[samples] != texts[other]).to(task.bank.device)
        samples, other = samples.to(task.bank.device), other.to(task.bank.device)
        query = torch.cat((task.bank.query[samples], task.bank.query[other]))
        both = self.episode(task, samples.repeat(2), query, generator)
        count = len(samples)
        episode = SmrlEpisode(*(part[:, :count] for part in both))
        # A large negative logit costs nothing in the mismatched half of the cross-entropy.
        mismatch = torch.where(differs, both.match[:, count:], -30.0)
        total = task.config.total
        with torch.no_grad():
            picked = choose(episode.match, episode.on)
            best = episode.detection[picked, torch.arange(count, device=picked.device)].to(torch.float64) * total
            iou = spans.span_iou(best[:, 0], best[:, 1], task.truth[samples], "clamped")
            reward = rewards.hit_reward(iou, args.hit).to(torch.float32)
            truth = nearest_truth(task, samples, best[:, 0], best[:, 1])
        return smrl_loss(episode, mismatch, truth, reward, baseline, args), reward

    def episode(
        self, task: TemporalTask, samples: Tensor, query: Tensor, generator: torch.Generator | None = None
    ) -> SmrlEpisode:
        """N steps in the videos of samples (B,) with sentences (B, Dq); without a generator nothing is drawn."""
        args, network, count = self.args, self.network, len(samples)
        words = network.read(query)
        memory = (query.new_zeros((count, args.hidden)), query.new_zeros((count, args.hidden)))
        # The position after the last step is never visited; any number serves.
        steps = torch.arange(args.looks + 1, device=query.device, dtype=query.dtype).clamp(max=args.looks - 1)
        even = torch.logit((steps + 0.5) / args.looks if args.sweep else torch.full_like(steps, 0.5))
        position = torch.sigmoid(even[0]).expand(count)
        # Uniform positions were not drawn from the policy, so they do not enter its gradient.
        anywhere = torch.zeros(count, dtype=torch.bool, device=query.device)
        if generator is not None:
            anywhere = (torch.rand(count, generator=generator) < args.explore).to(query.device)
            position = torch.where(anywhere, torch.rand(count, generator=generator).to(query.device), position)
        rows: list[tuple[Tensor, ...]] = []
        for step in range(args.looks):
            frame = self._frame(task, samples, position)
            memory, detection, match, indicator, following = network.step(words, frame, position, memory)
            mean = torch.sigmoid(following + even[step + 1])
            log_prob, on, following = torch.zeros_like(mean), indicator > 0, mean.detach()
            if generator is not None:
                noise = torch.randn(count, generator=generator).to(query.device)
                dice = torch.rand(count, generator=generator).to(query.device)
                on = dice < torch.sigmoid(indicator)
                drawn = following + args.sigma * noise
                log_prob = nn.functional.logsigmoid(torch.where(on, indicator, -indicator))
                log_prob = log_prob + torch.where(anywhere, 0.0, -(((drawn - mean) / args.sigma) ** 2) / 2)
                uniform = torch.rand(count, generator=generator).to(query.device)
                following = torch.where(anywhere, uniform, drawn.clamp(0, 1))
            rows.append((position, detection, match, indicator, on, log_prob))
            position = following
        return SmrlEpisode(*(torch.stack(parts) for parts in zip(*rows, strict=True)))

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Mean positions; the detection with the indicator on and the highest match."""
        was = self.network.training
        self.network.eval()
        episode = self.episode(task, samples, task.bank.query[samples])
        self.network.train(was)
        row = torch.arange(len(samples), device=samples.device)
        picked = torch.full_like(row, -1) if self.args.answer == "last" else choose(episode.match, episode.on)
        detection = episode.detection[picked, row].to(torch.float64)
        duration = task.bank.duration[task.bank.video[samples]]
        n_frames = task.n_frames[samples]
        frames = (episode.position.to(torch.float64) * n_frames).floor().minimum(n_frames - 1.0)
        distinct = 1 + (frames.sort(0).values.diff(dim=0) > 0).sum(0)
        length, rows = torch.full_like(samples, self.args.looks), frames.T.to(torch.int64)
        seconds = detection * duration[:, None]
        return Prediction(seconds, length=length, frames_seen=distinct / n_frames, rows_seen=rows)

    def _frame(self, task: TemporalTask, samples: Tensor, position: Tensor) -> Tensor:
        """f_o of the frame at positions (B,) in [0, 1]: (B, D), through a window of no length."""
        at = position.to(torch.float64) * task.config.total
        return task.observe(samples, at, at, torch.zeros_like(samples))["local"]

    def _anywhere(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        samples = torch.randint(len(self.bank), (count,), generator=generator)
        position = torch.rand(count, generator=generator)
        return samples.to(self.bank.device), position.to(self.bank.device)

    def _train_concepts(self, generator: torch.Generator) -> None:
        """Train the head of concepts: the words that the sentence of a frame inside its true moment has."""
        task, args, network = self.task, self.args, self.network
        present = [set(re.findall(r"[a-z']+", text.lower())) for text in self.bank.texts]
        wanted = torch.tensor([[float(word in one) for word in self.words] for one in present], device=self.bank.device)
        optimiser = torch.optim.Adam(network.concepts.parameters(), 1e-2, fused=True)
        for _ in range(args.concept_steps):
            samples, where = self._anywhere(generator, args.batch)
            inside = inside_truth(task.truth[samples] / task.config.total, where)
            seen = network.frame_inputs({"local": self._frame(task, samples, inside)})
            loss = nn.functional.binary_cross_entropy_with_logits(network.concepts(seen), wanted[samples])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()


# Its detection also learns the true windows, of the looks that its own episodes take.
register(
    SystemSpec(
        "sm-rl",
        SmRl,
        "SM-RL, from description: reads single frames, then detects",
        sees="whole frames",
        learns_from=OWN_REWARDS_AND_WINDOWS,
        space=SPACE,
    )
)
