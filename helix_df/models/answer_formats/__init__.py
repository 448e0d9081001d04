"""What a model's answer has beside plain text: thoughts and calls of tools, as each family of models writes them.

A format is one file behind ``api.AnswerFormat``, a row in ``registry`` or an entry point of another package.
"""
