"""The core of the paper, in plain Python: it decides, and an `Executor` computes. It imports no array library.

One iteration, in the order of the calls (`loop.Engine.step`):

    queue        arrivals and cancellations come in from any thread
    roster       which sequences are alive, and the rows and pages they hold
      sequence, rows, pages, prefix
    scheduler    which sequences enter, how many prompt tokens join, which wait, which are preempted
      strategy, budget
    plan         the `StepPlan` that is decided, the `StepResult` that comes back
    executor     the interface of what runs a plan
    commit       sequences advance by their tokens, or leave
    stats        counters and gauges
    observer     the interface of what watches a loop: timeline, trace, record
"""
