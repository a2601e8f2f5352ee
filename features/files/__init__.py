"""Files that the project writes and reads: atomic replacement, locks, untrusted JSON, and errors in one sentence.

- `features.files.atomic`: a file or folder is replaced whole or not at all, and nothing else is ever replaced.
- `features.files.locks`: one process works in a folder; the others are named who holds it.
- `features.files.errors`: an error of the operating system becomes a `DataError`.
- `features.files.untrusted_json`: JSON and safetensors headers of unknown origin, bounded and checked by a schema.
"""
