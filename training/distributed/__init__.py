"""One run over many processes: who am I, how we add up, how one failure ends all."""
