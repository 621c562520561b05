"""Link prediction: scores, loss, gradients."""
