"""GRPO: tensors in, tensors out; no database, broker or HTTP.

In reading order:

    types        the records and the legend of tensor shapes     config  every number of a run
    trainer      the loop, and how it stops and goes on
    collect      prompts -> graded groups   (rollout, hf_sampler, decode, cache; grading, order)
    advantage    rewards -> advantages
    update       groups -> a moved adapter  (batch, forward, head, logprobs, objective)
    policy       base model and adapter     (lora, checksum)
    gate         proof that the sampler draws from the policy
    evaluate     greedy answers to held-out prompts
    checkpoint   the training state in a folder
    metrics, hooks, errors
"""
