"""Local stand-ins for WeChat, WeChat Pay, Alipay, SMS, JPush, real-name and department systems.

One Tornado application in a process of its own. It is written from the platforms' documents and shares no code with
the hall, so that a misunderstanding on our side shows as a refusal here instead of agreeing with itself. It imports
nothing of the hall, it is never started when `HALL_ENV=production`, and its keys are made on first start.
"""
