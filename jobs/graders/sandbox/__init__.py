"""Running users' Python: a locked process per grader, a disposable child per call or few.

    python.py (the grader type) -> pools -> pool -> isolation -> process -> launch
                                                                    |  two pipes
                                       inside/ (in the sandbox):  main -> harness -> children

`docs/sandbox.md` tells operators what each level gives; `inside` is all that runs in there.
"""
