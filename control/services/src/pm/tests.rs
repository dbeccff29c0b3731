//! Content over a real port and a real directory; over a store that fills up; over S3 where there is a server.

use super::client::Client;
use super::collect::collect;
use super::*;
use async_trait::async_trait;
use bus::{Clock, Sender};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use store::{Expect, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;
use wire::package::Resource;
use wire::{ApiError, ErrorCode, Package};

mod full_disk;

const MIB: usize = 1 << 20;

// === a ground to stand on ===

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pm-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test of this process may have been first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}

fn bus() -> Bus {
    Bus::new(bus::local::Local::new(), Sender::new("test", 1), Clock::system())
}

fn content(bytes: usize, seed: u8) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(next).collect::<Vec<u8>>().into()
}

fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn chunks(content: &Bytes) -> BoxStream<'static, Result<Bytes, Infallible>> {
    let pieces: Vec<_> = content.chunks(64 * 1024).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    futures_util::stream::iter(pieces).boxed()
}

struct Ground {
    bus: Bus,
    running: Running,
    stop: CancellationToken,
    directory: Directory,
}

impl Ground {
    async fn new(bus: &Bus, bytes_max: u64) -> Self {
        provider();
        let directory = Directory::new();
        let place = Place::Directory(directory.0.clone());
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), place);
        settings.resource_bytes_max = bytes_max;
        let stop = CancellationToken::new();
        let store = store::memory::store();
        let running = start(settings, bus.clone(), store, stop.clone()).await.unwrap();
        Self { bus: bus.clone(), running, stop, directory }
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v1/resources{rest}", self.running.url)
    }

    fn client(&self) -> Client {
        Client::new(self.bus.clone()).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.ended().await;
    }
}

async fn whole(download: client::Download) -> Result<Vec<u8>, ApiError> {
    let mut bytes = download.bytes;
    let mut all = Vec::new();
    while let Some(chunk) = bytes.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(20);
/// Between two looks at the directory: nobody tells when a file comes or goes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Directory {
    /// Waits until the files are as they should be.
    async fn until(&self, what: &str, is: impl Fn(&[PathBuf]) -> bool) {
        let began = tokio::time::Instant::now();
        while !is(&self.files()) {
            assert!(began.elapsed() < LONG, "not so within {LONG:?}: {what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

// === sending and fetching ===

/// Goal: what is sent is what is fetched, small and in many parts, with and without a digest known beforehand.
#[tokio::test]
async fn content_comes_back() {
    let ground = Ground::new(&bus(), 1 << 30).await;
    let client = ground.client();
    for (bytes, known) in [(0, true), (5, false), (MIB, true), (12 * MIB, true), (11 * MIB, false)]
    {
        let content = content(bytes, 1);
        let name = sha256(&content);
        let wanted = known.then_some(name.as_str());
        let stored = client.upload(wanted, None, chunks(&content)).await.unwrap();
        let sha1 = format!("sha1:{}", hex::encode(sha1::Sha1::digest(&content)));
        let length = bytes as u64;
        assert_eq!(stored, Stored { digest: format!("sha256:{name}"), sha1, length });
        assert_eq!(client.length(&name).await.unwrap(), length);
        let download = client.download(&name, None).await.unwrap();
        assert_eq!((download.length, download.range.clone()), (length, 0..length));
        assert!(whole(download).await.unwrap() == content, "{bytes} bytes differ");
    }
    // The same again is no mistake, and nothing but the contents is left.
    let again = content(5, 1);
    client.upload(Some(&sha256(&again)), Some(5), chunks(&again)).await.unwrap();
    assert_eq!(ground.directory.files().len(), 5);
    ground.end().await;
}

/// Goal: single ranges as RFC 9110 has them: 206, 416, and the whole where a range does not apply.
#[tokio::test]
async fn ranges_over_http() {
    let ground = Ground::new(&bus(), 1 << 30).await;
    let content = content(100_000, 2);
    let name = sha256(&content);
    ground.client().upload(Some(&name), None, chunks(&content)).await.unwrap();
    let http = reqwest::Client::new();
    let get = async |headers: &[(&str, String)]| {
        let mut request = http.get(ground.url(&format!("/{name}")));
        for (header, value) in headers {
            request = request.header(*header, value);
        }
        let answer = request.send().await.unwrap();
        let header = |name: &str| {
            let value = answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            value.unwrap_or_default()
        };
        let facts = (answer.status().as_u16(), header("content-range"), header("content-length"));
        (facts, answer.bytes().await.unwrap())
    };
    let range = |text: &str| ("range", text.to_owned());
    let (facts, bytes) = get(&[range("bytes=10-19")]).await;
    assert_eq!(facts, (206, "bytes 10-19/100000".to_owned(), "10".to_owned()));
    assert_eq!(bytes, content.slice(10..20));
    let (facts, bytes) = get(&[range("bytes=-7")]).await;
    assert_eq!(facts, (206, "bytes 99993-99999/100000".to_owned(), "7".to_owned()));
    assert_eq!(bytes, content.slice(99_993..));
    let (facts, bytes) = get(&[range("bytes=100000-")]).await;
    assert_eq!((facts.0, facts.1.as_str()), (416, "bytes */100000"));
    let refused: ApiError = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((refused.code, refused.client_side), (416, true));
    for headers in [
        vec![],
        vec![range("bytes=0-1,4-5")],
        vec![range("bytes=0-1"), ("if-range", "\"other\"".to_owned())],
    ] {
        let (facts, bytes) = get(&headers).await;
        assert_eq!(facts, (200, String::new(), "100000".to_owned()), "{headers:?}");
        assert_eq!(bytes, content);
    }
    let (facts, _) = get(&[range("bytes=0-1"), ("if-range", format!("\"{name}\""))]).await;
    assert_eq!(facts.0, 206);
    let head = http.head(ground.url(&format!("/{name}"))).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "100000");
    assert_eq!(head.headers()["etag"], format!("\"{name}\""));
    let part = ground.client().download(&name, Some((500, Some(599)))).await.unwrap();
    assert_eq!((part.length, part.range.clone()), (100_000, 500..600));
    assert_eq!(whole(part).await.unwrap(), content.slice(500..600));
    ground.end().await;
}

/// Goal: each refusal has its status and its words, and leaves nothing.
#[tokio::test]
async fn refusals_leave_nothing() {
    let ground = Ground::new(&bus(), 7 * MIB as u64).await;
    let http = reqwest::Client::new();
    let put = async |name: &str, body: reqwest::Body| {
        let request = http.put(ground.url(&format!("/{name}"))).body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let refused: ApiError = answer.json().await.unwrap();
        assert_eq!(status, refused.code);
        (refused.error, refused.message)
    };
    let streamed = |content: &Bytes| reqwest::Body::wrap_stream(chunks(content));
    let (small, large, huge) = (content(10, 3), content(6 * MIB, 3), content(8 * MIB, 3));
    let (error, message) = put("abc", small.clone().into()).await;
    assert_eq!(error, ErrorCode::Invalid);
    assert_eq!(message, "\"abc\" is not a SHA-256 digest of 64 hexadecimal digits");
    for content in [&small, &large] {
        let other = "0".repeat(64);
        let (error, message) = put(&other, streamed(content)).await;
        assert_eq!(error, ErrorCode::Mismatch);
        let found = sha256(content);
        let words = format!("the content has the digest sha256:{found}, not sha256:{other}");
        assert_eq!(message, words);
    }
    let (error, message) = put(&sha256(&huge), streamed(&huge)).await;
    assert_eq!(
        (error, message.as_str()),
        (ErrorCode::TooLarge, "the content is larger than 7340032 bytes")
    );
    let announced = ground.client().upload(None, Some(huge.len() as u64), chunks(&huge)).await;
    assert_eq!(announced.unwrap_err().code, 413);
    let absent = ground.client().download(&sha256(&large), None).await;
    assert_eq!(absent.err().unwrap().error, ErrorCode::NotFound);
    ground.directory.until("nothing is left", <[_]>::is_empty).await;
    ground.end().await;
}

/// Goal: a client that goes in the middle, before or after the first part, leaves nothing.
#[tokio::test]
async fn who_goes_in_the_middle_leaves_nothing() {
    let ground = Ground::new(&bus(), 1 << 30).await;
    let whole = content(9 * MIB, 4);
    for sent in [MIB, 8 * MIB] {
        let mut stream = tokio::net::TcpStream::connect(ground.running.addr).await.unwrap();
        let head = format!(
            "PUT /v1/resources/{} HTTP/1.1\r\nHost: pm\r\nContent-Length: {}\r\n\r\n",
            sha256(&whole),
            whole.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&whole[..sent]).await.unwrap();
        if sent > 5 * MIB {
            ground.directory.until("a part is written", |files| !files.is_empty()).await;
        }
        drop(stream);
        ground.directory.until("nothing is left", <[_]>::is_empty).await;
    }
    assert_eq!(
        ground.client().length(&sha256(&whole)).await.unwrap_err().error,
        ErrorCode::NotFound
    );
    ground.end().await;
}

// === several package managers ===

/// Goal: content that only one package manager has is found whoever answers first.
#[tokio::test]
async fn the_one_that_has_it_is_found() {
    let bus = bus();
    let (one, two) = (Ground::new(&bus, 1 << 30).await, Ground::new(&bus, 1 << 30).await);
    let client = one.client();
    let contents: Vec<_> = (0..4).map(|seed| content(1_000, seed)).collect();
    for (at, content) in contents.iter().enumerate() {
        let ground = if at % 2 == 0 { &one } else { &two };
        let put = reqwest::Client::new().put(ground.url(&format!("/{}", sha256(content))));
        assert_eq!(put.body(content.clone()).send().await.unwrap().status(), 201);
    }
    for content in &contents {
        let download = client.download(&sha256(content), None).await.unwrap();
        assert_eq!(whole(download).await.unwrap(), *content);
        assert_eq!(client.length(&sha256(content)).await.unwrap(), 1_000);
    }
    two.end().await;
    let mistake = client.download(&sha256(&contents[1]), None).await.err().unwrap();
    assert_eq!(mistake.error, ErrorCode::NotFound);
    one.end().await;
    let mistake = client.download(&sha256(&contents[0]), None).await.err().unwrap();
    assert_eq!(mistake.message, "no package manager answers");
}

/// Goal: a package manager that breaks off in the middle is replaced by the next one, and no byte is missing or doubled;
/// one that refuses connections does not cost an upload.
#[tokio::test]
async fn a_download_goes_on_elsewhere() {
    let bus = bus();
    // One that promises everything and gives the first 1,000 bytes, and one that is not there at all.
    let half = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let content = content(300_000, 6);
    let begin = content.slice(..1_000);
    let location = |url: String| PmLocation { url, resource_bytes_max: u64::MAX };
    let liar = location(format!("http://{}", half.local_addr().unwrap()));
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = half.accept().await {
            let mut head = [0; 1_024];
            let read = stream.read(&mut head).await.unwrap();
            if head[..read].starts_with(b"GET") {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.write_all(&begin).await.unwrap();
            }
        }
    });
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = location(format!("http://{}", closed.local_addr().unwrap()));
    drop(closed);
    let mut telling = Vec::new();
    let real = Ground::new(&bus, 1 << 30).await;
    real.client().upload(Some(&sha256(&content)), None, chunks(&content)).await.unwrap();
    for location in [gone, liar] {
        telling.push(tokio::spawn(tell_where(bus.clone(), location, None)));
    }
    let located = async || client::locate(&bus).await.unwrap().len();
    while located().await < 3 {
        tokio::task::yield_now().await;
    }
    let download = real.client().download(&sha256(&content), None).await.unwrap();
    assert!(whole(download).await.unwrap() == content, "the parts do not fit");
    for task in telling.into_iter().chain([serving]) {
        task.abort();
    }
    real.end().await;
}

// === garbage ===

/// Goal: of objects old and young, referred to and not, exactly the old and unreferred go; strangers' files stay.
#[test]
fn garbage_is_old_and_unreferred() {
    let (kept, lost) = ("a".repeat(64), "b".repeat(64));
    let object = |sha256: Option<&str>, path: &str, modified_ms| Object {
        path: path.into(),
        sha256: sha256.map(str::to_owned),
        modified_ms,
    };
    let objects = [
        object(Some(&kept), "sha256/aa/kept", 0),
        object(Some(&lost), "sha256/bb/lost", 0),
        object(Some(&lost), "sha256/bb/young", 5_000),
        object(None, "upload/old", 0),
        object(None, "upload/young", 5_000),
        object(None, "notes.txt", 0),
    ];
    let referred = BTreeSet::from([kept]);
    let gone = plan(&objects, &referred, 10_000, 5_000);
    assert_eq!(gone, [Path::from("sha256/bb/lost"), Path::from("upload/old")]);
}

async fn refer(store: &Store, digest: &str) -> String {
    let mut package: Package =
        serde_json::from_str(r#"{"fqn":"package::/sandbox/admin::web"}"#).unwrap();
    let (digest, sha1) = (format!("sha256:{digest}"), String::new());
    package.resources.push(Resource { uuid: Uuid::new_v4(), digest, sha1, length: 10 });
    let key = format!("packages/{}", Uuid::new_v4());
    let value = serde_json::to_vec(&package).unwrap().into();
    let put = Write::Put { key: key.clone(), value, expect: Expect::Absent };
    store.commit(&[put]).await.unwrap();
    key
}

/// Goal: a round over a real directory: what is referred to stays, what was half written by a killed process goes, and
/// a record that cannot be read stops the round.
#[tokio::test]
async fn a_round_of_collection() {
    let directory = Directory::new();
    let objects = Objects::open(&Place::Directory(directory.0.clone())).unwrap();
    let store = store::memory::store();
    let (kept, lost) = (content(10, 7), content(10, 8));
    for content in [&kept, &lost] {
        objects.store(None, chunks(content), 100).await.unwrap();
    }
    let staged = directory.0.join("sha256").join(&sha256(&kept)[..2]).join("half#1");
    std::fs::write(&staged, "half").unwrap();
    let key = refer(&store, &sha256(&kept)).await;
    let clock = Clock::system();
    let (age, now_ms) = (Duration::from_secs(3_600), clock.unix_ms());
    assert_eq!(collect(&objects, &store, now_ms, age).await.unwrap(), 0, "all is young");
    let later_ms = now_ms + 3_700_000;
    let bad = Write::Put { key: "packages/bad".into(), value: "x".into(), expect: Expect::Any };
    store.commit(&[bad]).await.unwrap();
    let mistake = collect(&objects, &store, later_ms, age).await.unwrap_err();
    assert!(matches!(mistake, CollectError::Package { key, .. } if key == "packages/bad"));
    let bad = Write::Delete { key: "packages/bad".into(), expect: Expect::Any };
    store.commit(&[bad]).await.unwrap();
    assert_eq!(collect(&objects, &store, later_ms, age).await.unwrap(), 2);
    assert!(!staged.exists() && objects.length(&sha256(&lost)).await.is_err());
    assert_eq!(objects.length(&sha256(&kept)).await.unwrap(), 10);
    store.commit(&[Write::Delete { key, expect: Expect::Any }]).await.unwrap();
    assert_eq!(collect(&objects, &store, later_ms, age).await.unwrap(), 1);
    assert!(directory.files().is_empty());
}

// === S3 ===

/// Goal: the same over a real S3 service: small and multipart, known and unknown digest, ranges, refusals, garbage.
/// `S3_ENDPOINT=http://127.0.0.1:5000 cargo test -p services s3` with `moto_server -p 5000`.
#[tokio::test]
async fn over_s3() {
    let Ok(endpoint) = std::env::var("S3_ENDPOINT") else {
        eprintln!("SKIPPED: over_s3 needs S3_ENDPOINT, the url of an S3 service");
        return;
    };
    provider();
    let name = format!("packages-{}", Uuid::new_v4().simple());
    let made = reqwest::Client::new().put(format!("{endpoint}/{name}")).send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.status());
    let (access_key, secret_key) = ("key".to_owned(), "secret".to_owned());
    let region = "us-east-1".to_owned();
    let bucket = Bucket { endpoint, bucket: name, region, access_key, secret_key };
    let objects = Objects::open(&Place::S3(bucket)).unwrap();
    for (bytes, known) in [(0, true), (1_000, false), (12 * MIB, true), (11 * MIB, false)] {
        let content = content(bytes, 9);
        let digest = sha256(&content);
        let wanted = known.then_some(digest.as_str());
        let stored = objects.store(wanted, chunks(&content), u64::MAX).await.unwrap();
        assert_eq!(stored.digest, format!("sha256:{digest}"));
        assert_eq!(objects.length(&digest).await.unwrap(), bytes as u64);
        let reading = objects.read(&digest, None).await.unwrap();
        let pieces: Vec<_> = reading.bytes.map(Result::unwrap).collect().await;
        assert!(pieces.concat() == content, "{bytes} bytes differ");
        if bytes > 0 {
            let part = objects.read(&digest, Some(10..20)).await.unwrap();
            assert_eq!((part.length, part.range.clone()), (bytes as u64, 10..20));
            let pieces: Vec<_> = part.bytes.map(Result::unwrap).collect().await;
            assert_eq!(pieces.concat(), content[10..20]);
        }
    }
    let before = objects.list().await.unwrap().len();
    let wrong = objects.store(Some(&"0".repeat(64)), chunks(&content(6 * MIB, 1)), u64::MAX).await;
    assert!(matches!(wrong, Err(ObjectError::Mismatch { .. })));
    let missing = objects.read(&"0".repeat(64), None).await.err().unwrap();
    assert!(matches!(missing, ObjectError::Missing(_)), "{missing}");
    assert_eq!((objects.list().await.unwrap().len(), before), (4, 4));
    let store = store::memory::store();
    refer(&store, &sha256(&content(1_000, 9))).await;
    let later_ms = Clock::system().unix_ms() + 3_700_000;
    let gone = collect(&objects, &store, later_ms, Duration::from_secs(3_600)).await.unwrap();
    assert_eq!((gone, objects.list().await.unwrap().len()), (3, 1));
}
