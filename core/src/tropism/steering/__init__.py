"""Steering: samples turned toward a reward while they are made, without training. Particles of a prompt compete, weights stay exact.

The map, from the bottom up:

- ``process``: a chain from noise to a sample in steps: ``start``, ``look`` (one forward: the fresh prediction of x0), ``noise``, ``move``
  (to the next state, maybe along a gradient, with the density ratio of that). :class:`~tropism.steering.denoising.Denoising` is that of
  a policy and a sampler; the exact worlds of ``toy_chains`` are others. A state is a tree of tensors [B, ...], cut and gathered whole.
- ``scorer``: finished or predicted x0 -> rewards [B], with what could not be scored as NaN.
- ``task``: a process, a scorer, P prompts x K particles (rows prompt by prompt) and the random streams: one for each particle's noise,
  another for each prompt's resampling. A method may look at, cut, gather and move states of any number of rows.
- ``weights`` and ``resampling``: log-weights [P, K] -> effective sample size, ancestors [P, N].
- ``potentials`` (difference, max, sum, current) and ``strength`` (lambda: a number, by effective sample size, rising): what a reward on
  the way adds to a log-weight; the sum over a lineage is lambda r(x0), always.
- ``schedule``: at which points rewards are looked at, and when particles are resampled. Point i is before step i, point S the finished
  sample.
- ``intermediate``: the reward of a state on the way: of the predicted x0, of several x0, of a look-ahead, or a learned value.
- ``smc``: the engine; ``steered``: what comes out (population, weights, log Z, genealogy, cost) and the selectors best, all and one.
- ``base``: :class:`~tropism.steering.base.Method`, and :func:`~tropism.steering.base.steer` which runs one on a policy.
  Methods: ``best_of_n``, ``fk``, ``twisted``, ``gibbs`` (particle Gibbs).
- ``search``: what the methods that search have in common. Methods: ``svdd``, ``psp``, ``bfs``, ``rollover``; over noise ``zero_order`` and
  ``paths``, which need no noise in the steps.
"""
