//! Content over a real port and a real directory; S3 where there is a server.
