"""The mirror of studies in MLflow. The store is the truth; nothing here is ever read back by a study.

Imports ``engine`` and lower rooms; nothing but the command line imports it.
"""
