//! The minimal relay for runtimes whose calls take buffers and give them back: the same text for both.

/// Defines `serve` for a `TcpStream` with `read(Vec) -> (Result<usize>, Vec)` and `write_all(Vec) -> (Result, Vec)`.
#[macro_export]
macro_rules! serve_by_rent {
    () => {
        type Pool = Rc<RefCell<Vec<TcpStream>>>;

        async fn serve(mut client: TcpStream, setup: &Setup, pool: &Pool) -> Result<(), String> {
            client.set_nodelay(true).map_err(|e| e.to_string())?;
            let (mut head, mut buffer) = (Vec::new(), Vec::with_capacity(BUFFER_BYTES));
            let mut rewritten = Vec::new();
            loop {
                head.clear();
                let origin = loop {
                    let (result, read) = client.read(buffer).await;
                    buffer = read;
                    let count = result.map_err(|e| e.to_string())?;
                    if count == 0 {
                        return Ok(());
                    }
                    head.extend_from_slice(&buffer[..count]);
                    if let Some(origin) = setup.rewrite(&head, &mut rewritten)? {
                        break origin;
                    }
                };
                let pooled = pool.borrow_mut().pop();
                let mut upstream = match pooled {
                    Some(upstream) => upstream,
                    None => TcpStream::connect(origin).await.map_err(|e| e.to_string())?,
                };
                upstream.set_nodelay(true).map_err(|e| e.to_string())?;
                let (result, written) = upstream.write_all(rewritten).await;
                rewritten = written;
                result.map_err(|e| e.to_string())?;
                head.clear();
                let mut total = None;
                let mut seen = 0;
                while total.is_none_or(|total| seen < total) {
                    let (result, read) = upstream.read(buffer).await;
                    buffer = read;
                    let count = result.map_err(|e| e.to_string())?;
                    if count == 0 {
                        return Err("the origin closed".to_owned());
                    }
                    seen += count;
                    if total.is_some() {
                        let (result, written) = client.write_all(buffer).await;
                        buffer = written;
                        result.map_err(|e| e.to_string())?;
                        continue;
                    }
                    head.extend_from_slice(&buffer[..count]);
                    total = answer_len(&head)?;
                    if total.is_some() {
                        let (result, written) = client.write_all(head).await;
                        head = written;
                        result.map_err(|e| e.to_string())?;
                    }
                }
                pool.borrow_mut().push(upstream);
            }
        }
    };
}
