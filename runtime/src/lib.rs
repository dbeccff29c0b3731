//! The instance manager: bids, instances, drivers, logs, announcements, package cache.
