"""The stages of a build, each run or taken over from an earlier build of the same folder.

A stage has a key: the hash of all that decides about what it makes, with the content of the files
that it reads. So whether it has to run can be told from its record in the manifest alone, and a
stage that made the same bytes again lets nothing after it run.
"""
