"""Ways of learning tasks one after another, behind one protocol: the paper's, niwfctl, rivals."""
