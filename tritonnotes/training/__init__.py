"""The training step: its programs, its state, how it runs, and what becomes of its outputs.

`step` is the face; `step_programs`, `step_state` and `step_runner` are what it is made of. `step_optimizer` is the step
as torch.optim has it, by `torch_options`, `torch_state` and `torch_scaler`.
"""
