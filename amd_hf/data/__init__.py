"""Data path: from encoded videos to uint8 clips.

The order of use is `loading` (rows), `decoding` (frames of a row), `sampling` (which frames), `transforms` (crops) and
`collators` (batches, made inside the workers of a data loader). Nothing is imported here, so that `import amd_hf`
pulls in neither `datasets` nor a decoder.
"""
