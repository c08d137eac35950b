from mit_builder.contract.test_people import *  # noqa: F403 - over our registry, see conftest.py
