"""Inside nnU-Net's own command: a trainer that is fed by the DALI loader, and the folder in which nnU-Net finds it."""
