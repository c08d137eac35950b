from mit_builder.contract.test_speaker import *  # noqa: F403 - over our registry, see conftest.py
