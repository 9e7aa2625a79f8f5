"""What runs inside the server: copied into the repository, and importable here for the tests.

Nothing in this folder imports the rest of the toolchain, which the server does not have.
"""
