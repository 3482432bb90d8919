"""Block nodes: how they are described, and the drivers that do the I/O.

Descriptions are pure: `options` declares QAPI's BlockdevOptions for the drivers
there are; `filename` turns what a user types after ``file=`` into options and
options into what QEMU shows; `flat_options` gives ``-drive``'s untyped keys
their types the way bdrv_open does; `blkdebug_config` reads blkdebug's rules.
Drivers block and are thread-safe; each is named as QAPI's enum value.
"""
