//! A store that fills up in the middle of an upload.
//!
//! Deliberately absent: a real full disk; the store refuses at the same calls.

use super::*;
use tokio::sync::watch;

/// Takes so many writes, then its disk is full.
#[derive(Debug)]
struct Filling {
    inner: InMemory,
    left: Arc<AtomicUsize>,
    aborted: Arc<watch::Sender<usize>>,
}

impl std::fmt::Display for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a small disk")
    }
}

fn spend(left: &AtomicUsize) -> object_store::Result<()> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    taken
        .map(drop)
        .map_err(|_| object_store::Error::Generic { store: "disk", source: full().into() })
}

#[derive(Debug)]
struct FillingUpload {
    inner: Box<dyn MultipartUpload>,
    left: Arc<AtomicUsize>,
    aborted: Arc<watch::Sender<usize>>,
}

#[async_trait]
impl MultipartUpload for FillingUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        match spend(&self.left) {
            Ok(()) => self.inner.put_part(part),
            Err(full) => Box::pin(async { Err(full) }),
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        spend(&self.left)?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.aborted.send_modify(|count| *count += 1);
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for Filling {
    async fn put_opts(
        &self,
        at: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        spend(&self.left)?;
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        spend(&self.left)?;
        let inner = self.inner.put_multipart_opts(at, options).await?;
        let (left, aborted) = (Arc::clone(&self.left), Arc::clone(&self.aborted));
        Ok(Box::new(FillingUpload { inner, left, aborted }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, o: CopyOptions) -> object_store::Result<()> {
        spend(&self.left)?;
        self.inner.copy_opts(from, to, o).await
    }
}

/// Goal: wherever the disk becomes full, the upload is refused and no object is there, and what was begun is undone.
#[tokio::test]
async fn a_full_disk_leaves_no_half_object() {
    let (small, large) = (content(10, 5), content(16 * MIB, 5));
    for content in [&small, &large] {
        for (known, room) in [(true, 0), (true, 1), (true, 3), (false, 5), (true, 5)] {
            let left = Arc::new(AtomicUsize::new(room));
            let aborted = Arc::new(watch::Sender::new(0));
            let mut aborts = aborted.subscribe();
            let disk = Filling { inner: InMemory::new(), left: Arc::clone(&left), aborted };
            let objects = Objects::over(Arc::new(disk));
            let name = sha256(content);
            let wanted = known.then_some(name.as_str());
            match objects.store(wanted, chunks(content), u64::MAX).await {
                Ok(_) => {
                    assert_eq!(objects.length(&name).await.unwrap(), content.len() as u64);
                }
                Err(mistake) => {
                    assert!(matches!(mistake, ObjectError::Store(_)), "{mistake}");
                    assert!(mistake.to_string().contains("no storage space"), "{mistake}");
                    let missing = objects.length(&name).await.unwrap_err();
                    assert!(matches!(missing, ObjectError::Missing(_)), "{missing}");
                    let begun = content.len() > MIB && room > 0;
                    let undone = aborts.wait_for(|count| *count == usize::from(begun));
                    tokio::time::timeout(LONG, undone).await.unwrap().unwrap();
                }
            }
            // Four parts, begin and end: room for all of it only where five writes are enough.
            let fits = if content.len() > MIB { 6 } else { 1 };
            let stored = objects.length(&name).await.is_ok();
            assert_eq!(stored, room >= fits, "room {room}, {} bytes", content.len());
        }
    }
}
