"""Other servers that score flights, each as its documentation shows it, for `benchmarks.serving`. They import nothing of Penstock."""
