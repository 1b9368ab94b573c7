"""`python -m tinkex.local.merge`: merges an adapter and its base model into one model."""

from tinkex_server.engine.torch.merge import main

if __name__ == "__main__":
    main()
