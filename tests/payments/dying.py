"""A process that is killed while it settles a batch: `python dying.py <mongodb uri> <database> <file>`, run by test_batches.py.

The file holds (credentials, [batch, ...]); a batch is headers and bodies of notices that come at once. For the n-th batch a process of its own
ends, without any farewell, the moment it would send its n-th command to MongoDB. Prints one exit status per batch: 9 killed, 0 came through.
"""

import asyncio
import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pymongo import monitoring

from app.storage.mongo import Database
from payments.providers.wechatpay import WeChatPay
from payments.service import Payments

KILLED = 9


class Killer(monitoring.CommandListener):
    def __init__(self, command):
        self.left = command

    def started(self, event):
        self.left -= 1
        if self.left == 0:
            os._exit(KILLED)

    def succeeded(self, event): ...

    def failed(self, event): ...


async def receive(uri, name, own, batch):
    database = Database(uri, name)
    wechatpay = WeChatPay(
        None,
        base_url="",
        app_id=own.wechat_app_id,
        mch_id=own.wechatpay_mch_id,
        api_v3_key=own.wechatpay_api_v3_key,
        merchant_serial=own.merchant_serial,
        merchant_key=own.merchant_private_key,
        public_key_id=own.wechatpay_public_key_id,
        public_key=own.wechatpay_public_key,
    )
    payments = Payments(database, providers=[wechatpay], sources={}, payer_of=None, public_url="")
    outcomes = await asyncio.gather(*(payments.receive("wechatpay", headers, body) for body, headers in batch))
    assert all(outcome.taken for outcome in outcomes)
    os._exit(0)


if __name__ == "__main__":
    _, uri, name, file = sys.argv
    own, batches = pickle.loads(Path(file).read_bytes())
    for command, batch in enumerate(batches, start=1):
        child = os.fork()
        if child == 0:
            monitoring.register(Killer(command))
            asyncio.run(receive(uri, name, own, batch))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
