"""Checks that anyone can run on their own machine and model: does the engine keep its promises here?"""
