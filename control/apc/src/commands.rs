//! What each command does: one file for each noun, this one chooses.
//!
//! Deliberately absent: reading of the command line (`argv`, `cli`).

use crate::cli::{AppVerb, ClusterVerb, ImVerb, JobVerb, Noun, RouteVerb, TagVerb};
use crate::failure::Failure;
use crate::session::Session;

mod app;
mod cluster;
mod completion;
mod identity;
mod job;
mod life;
mod logs;
mod package;
mod route;

/// Runs the command.
pub(crate) async fn run(session: &mut Session, noun: Noun) -> Result<(), Failure> {
    match noun {
        Noun::App(verb) => app_verb(session, verb).await,
        Noun::Job(verb) => job_verb(session, verb).await,
        Noun::Route(verb) => route_verb(session, verb).await,
        Noun::Package(verb) => package::run(session, verb).await,
        Noun::Cluster(ClusterVerb::Im(ImVerb::List)) => cluster::ims(session).await,
        Noun::Cluster(ClusterVerb::Tag(TagVerb::List)) | Noun::Tag(TagVerb::List) => {
            cluster::tags(session).await
        }
        Noun::Target { url } => identity::target(session, url).await,
        Noun::Login { token, token_file } => identity::login(session, token, token_file).await,
        Noun::Logout => identity::logout(session),
        Noun::Namespace { name } => identity::namespace(session, name).await,
        Noun::Version => identity::version(session).await,
        Noun::Completion { shell } => completion::script(shell),
        Noun::Names { words } => completion::names(session, &words).await,
    }
}

async fn app_verb(session: &Session, verb: AppVerb) -> Result<(), Failure> {
    match verb {
        AppVerb::Create(flags) => app::create(session, *flags).await,
        AppVerb::Deploy(flags) => app::deploy(session, *flags).await,
        AppVerb::Update(flags) => job::update(session, &flags).await,
        AppVerb::Scale { name, count, instances, wait } => {
            job::scale(session, &name, count.or(instances), wait).await
        }
        AppVerb::Start(named) => life::start(session, &named).await,
        AppVerb::Stop(named) => life::stop(session, &named).await,
        AppVerb::Restart(named) => life::restart(session, &named).await,
        AppVerb::Delete(named) => job::delete(session, &named).await,
        AppVerb::List(flags) => job::list(session, &flags, true).await,
        AppVerb::Show { name } => job::show(session, &name).await,
        AppVerb::Logs(flags) => logs::logs(session, &flags).await,
        AppVerb::Instances { name } => job::instances(session, &name).await,
        AppVerb::Health { name } => job::health(session, &name).await,
    }
}

async fn job_verb(session: &Session, verb: JobVerb) -> Result<(), Failure> {
    match verb {
        JobVerb::Update(flags) => job::update(session, &flags).await,
        JobVerb::Start(named) => life::start(session, &named).await,
        JobVerb::Stop(named) => life::stop(session, &named).await,
        JobVerb::Restart(named) => life::restart(session, &named).await,
        JobVerb::Delete(named) => job::delete(session, &named).await,
        JobVerb::List(flags) => job::list(session, &flags, false).await,
        JobVerb::Show { name } => job::show(session, &name).await,
        JobVerb::Logs(flags) => logs::logs(session, &flags).await,
        JobVerb::Instances { name } => job::instances(session, &name).await,
        JobVerb::Health { name } => job::health(session, &name).await,
    }
}

async fn route_verb(session: &Session, verb: RouteVerb) -> Result<(), Failure> {
    match verb {
        RouteVerb::Add(flags) => route::add(session, &flags).await,
        RouteVerb::Delete(flags) => route::delete(session, &flags).await,
        RouteVerb::List { long } => route::list(session, long).await,
        RouteVerb::Show { endpoint } => route::show(session, &endpoint).await,
        RouteVerb::Weight(flags) => route::weight(session, &flags).await,
        RouteVerb::Map(flags) => route::map(session, &flags).await,
        RouteVerb::Unmap(flags) => route::unmap(session, &flags).await,
        RouteVerb::Explain { url, from } => route::explain(session, &url, from).await,
        RouteVerb::Proof { endpoint, kind } => route::proof(session, &endpoint, &kind).await,
    }
}
