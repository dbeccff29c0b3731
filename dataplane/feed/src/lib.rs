//! The cluster feed of the router: job records joined with announcements, confirmed drain, acknowledged commits.
