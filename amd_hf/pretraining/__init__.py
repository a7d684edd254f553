"""The paper: masks, losses and the trainer that distils."""
