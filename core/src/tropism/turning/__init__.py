"""Who steers: :mod:`tropism.steering` run on a pipeline, on the prompts of a recipe or a run, beside an evaluation, or in a rollout.

- ``pipeline``: ``tropism.steer``: a diffusers pipeline or a policy, prompts and a reward, in three lines of Python.
- ``recipe``: ``tropism steer``: the prompts of a recipe or of a run, by one method and others to compare, into a folder.
- ``folder``: what that folder holds, and how it is made.
- ``baseline``: the evaluator ``steered``: the base model, steered instead of trained.
- ``particles``: what these and rollouts share: conditions and noise of particles, and as many prompts at a time as there is room for.
- ``steerable``: why a method cannot work in a recipe, told before any weight is loaded.
"""
