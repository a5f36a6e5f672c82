"""The hosts of the testbed: engine, storage, images, registry, release server, target hosts."""
