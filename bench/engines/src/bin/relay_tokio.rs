//! The minimal relay on Tokio, one thread, epoll.

use std::cell::RefCell;
use std::rc::Rc;

use engines::{BUFFER_BYTES, Setup, answer_len};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Pool = Rc<RefCell<Vec<TcpStream>>>;

fn main() -> Result<(), String> {
    let setup = Rc::new(Setup::from_arguments()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime.map_err(|e| e.to_string())?, async {
        let listener = TcpListener::bind(setup.listen).await.map_err(|e| e.to_string())?;
        let pool = Pool::default();
        loop {
            let (client, _) = listener.accept().await.map_err(|e| e.to_string())?;
            let (setup, pool) = (Rc::clone(&setup), Rc::clone(&pool));
            tokio::task::spawn_local(async move {
                // A connection that fails ends; there is nobody to tell.
                serve(client, &setup, &pool).await.ok();
            });
        }
    })
}

async fn serve(mut client: TcpStream, setup: &Setup, pool: &Pool) -> Result<(), String> {
    client.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut head, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
    let mut rewritten = Vec::new();
    loop {
        head.clear();
        let origin = loop {
            let count = client.read(&mut buffer).await.map_err(|e| e.to_string())?;
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
        upstream.write_all(&rewritten).await.map_err(|e| e.to_string())?;
        head.clear();
        let mut total = None;
        let mut seen = 0;
        while total.is_none_or(|total| seen < total) {
            let count = upstream.read(&mut buffer).await.map_err(|e| e.to_string())?;
            if count == 0 {
                return Err("the origin closed".to_owned());
            }
            seen += count;
            if total.is_none() {
                head.extend_from_slice(&buffer[..count]);
                total = answer_len(&head)?;
                if total.is_some() {
                    client.write_all(&head).await.map_err(|e| e.to_string())?;
                }
            } else {
                client.write_all(&buffer[..count]).await.map_err(|e| e.to_string())?;
            }
        }
        pool.borrow_mut().push(upstream);
    }
}
