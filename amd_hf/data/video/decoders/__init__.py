"""The decoders of `decoding.open_video`, a module each, behind the protocol `decoding.VideoReader`."""
