from mit_builder.contract.test_pose import *  # noqa: F403 - over our registry, see conftest.py
