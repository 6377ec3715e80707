"""GRPO: tensors in, tensors out; no database, broker or HTTP.

In reading order:

    types        the records and the legend of tensor shapes     config  every number of a run
    trainer      the loop, and how it stops and goes on
    collect      prompts -> graded groups   (rollout, hf_sampler, decode, cache; grading, order)
    advantage    rewards -> advantages
    update       groups -> a moved adapter  (batch, row, forward, attention, head, logprobs,
                                             objective)
    policy       base model and adapter     (lora, checksum, rotation)
    gate         proof that the sampler draws from the policy
    evaluate     answers to held-out prompts     (pass_at_k, lift)
    checkpoint   the training state in a folder     (counts)
    metrics, hooks, errors
"""
