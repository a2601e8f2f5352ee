# %% [markdown]
# # Compare two result files
#
# Two runs on the same data are compared query by query, which is much sharper than comparing two means with their
# intervals. Files of different protocols are refused.

# %%
import subprocess

run = "strong-envs run --features shapes-v0 --seeds 1 --budget 0.02"
subprocess.run(f'{run} --systems "trl" --out default', shell=True, check=True)
subprocess.run(f'{run} --systems "trl" --set phi=0.0 --out no_penalty', shell=True, check=True)
subprocess.run("strong-envs compare default/results.json no_penalty/results.json", shell=True, check=True)

# %% [markdown]
# Each line is the mean difference over queries with its interval. An interval that holds 0 is no difference that
# this data can show. One seed says nothing about another training run: use `--seeds 5`.
#
# Changed protocols are noticed:

# %%
subprocess.run(f'{run} --systems "trl" --test val --out validation', shell=True, check=True)
done = subprocess.run("strong-envs compare default/results.json validation/results.json", shell=True)
print("exit code", done.returncode)  # 2: the test parts differ

# %% [markdown]
# `strong-envs aggregate A.json B.json` summarises systems over several data sets. [The benchmark](../benchmark.md)
# describes both.
