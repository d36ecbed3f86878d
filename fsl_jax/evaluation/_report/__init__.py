"""What the report is made of; use it through `fsl_jax.evaluation.report`."""
