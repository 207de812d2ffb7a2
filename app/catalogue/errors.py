"""What can go wrong when somebody asks the catalogue.

NotFound
└── ItemNotFound item.not_found
ProviderUnavailable
└── CatalogueNotLoaded service.unavailable   this process has no published catalogue yet
"""

from app.kernel.errors import NotFound, ProviderUnavailable


class ItemNotFound(NotFound):
    code = "item.not_found"
    title = "没有找到这个事项"


class CatalogueNotLoaded(ProviderUnavailable):
    code = "service.unavailable"
    title = "系统正在准备"


def item_not_found() -> ItemNotFound:
    return ItemNotFound("没有找到这个事项，它可能已下架。请搜索事项名称，或拨打12345。", en="No such item.")
