"""Rewrites of the FP32 graph ahead of Q/DQ: one rule a file, each exact, each says why it does not.

A rule leaves the function that the graph computes as it is and changes what there is to quantize:
smaller ranges, fewer outliers, fewer GEMMs. Where its pattern is not there, it changes nothing and
gives the reason.
"""
