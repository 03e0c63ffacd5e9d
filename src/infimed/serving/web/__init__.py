"""The page: images, four tabs and their answers in a browser, mounted on the server that answers programs.

`mounting` puts it up, `door` stands before it, `page` is its layout, `viewer` and `asking` what it does,
`holding` what it remembers, `results` and `structured` what it shows and lets go. Invariant: whatever a model
or a user wrote reaches the browser as text, and the browser asks this server only.
"""
