"""The demo: a language model learns to write numbers in digits, "four hundred and two =" as 402.

Its data are beside this module, one `{"prompt": …, "completion": …}` on each line: numbers from 1
to 9999 in English words and in digits. No number is in both files. `scripts/make_numbers.py` of the
repository makes them from no other source; they are free for any use (CC0 1.0).
"""
