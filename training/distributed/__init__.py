"""One run over many processes: their ranks, their sums, and how one failure ends all of them."""
