"""The TAESD network: one layer table, and what follows from it. It knows nothing of tiles, files or schedules.

Importing this package is cheap; ``stage``, ``window_model``, ``whole_image`` and ``compile`` load Keras.
"""
