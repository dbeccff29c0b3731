//! The dconf syntax, cluster.conf and continuum.conf.
