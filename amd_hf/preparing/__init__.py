"""Preparing a data set for training: every video once as a small file that decodes fast.

`arguments` says how, `planning` what becomes of which video, `encoding` makes one video (in a decoding process),
`running` makes all of them and resumes after a kill, `manifest` knows what is done, and `formats` writes what
`load_video_dataset` reads.
"""
