"""Fails while it is imported, so in the init phase."""

import a_module_that_nobody_has


def handler(event, context):
    return a_module_that_nobody_has.answer()
