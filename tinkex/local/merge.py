"""`python -m tinkex.local.merge`: an adapter and its base model as one model of transformers."""

from tinkex_server.engine.torch.merge import main

if __name__ == "__main__":
    main()
