from mit_builder.contract.test_voice import *  # noqa: F403 - over our registry, see conftest.py
