"""Link prediction: scores, loss and gradients."""
