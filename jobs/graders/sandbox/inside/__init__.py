"""What runs inside the sandbox: the standard library alone, and no other room of this project.

The sandboxed interpreter sees this folder as the package `inside`; imports in it are relative.
"""
