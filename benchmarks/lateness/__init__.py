"""Delays planted in one phase of one rank: are they told apart from communication, and named?"""
