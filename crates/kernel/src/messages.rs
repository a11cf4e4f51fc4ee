//! Messages of Jupyter's protocol: a request that came, and what is sent because of it.
//!
//! Contents are JSON values, not types, so that a request with a missing or an additional field is
//! answered like any other. Signatures, framing and sockets are those of `jupyter-zmq-client`.

use jupyter_zmq_client::{
    Header, JupyterMessage, JupyterMessageContent, RawMessage, UnknownMessage,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// The version of the protocol that is spoken.
pub const PROTOCOL: &str = "5.4";

/// A request of a client.
#[derive(Clone)]
pub struct Request {
    identities: Vec<bytes::Bytes>,
    header: Arc<Header>,
    pub content: Arc<Value>,
}

impl Request {
    /// Reads a request from the frames that a socket received.
    ///
    /// # Errors
    /// A sentence, if it is no message of Jupyter; its signature was checked before.
    pub fn read(raw: RawMessage) -> Result<Self, String> {
        let header: Header = serde_json::from_slice(&raw.jparts[0])
            .map_err(|e| format!("a message without a valid header: {e}"))?;
        let content: Value = serde_json::from_slice(&raw.jparts[3])
            .map_err(|e| format!("{} without valid content: {e}", header.msg_type))?;
        Ok(Self {
            identities: raw.zmq_identities,
            header: Arc::new(header),
            content: Arc::new(content),
        })
    }

    /// The type of the message, for example `execute_request`.
    pub fn kind(&self) -> &str {
        &self.header.msg_type
    }

    /// A text of the content, `""` if there is none of this name.
    pub fn text(&self, name: &str) -> &str {
        self.content[name].as_str().unwrap_or_default()
    }

    /// Makes a reply, to be sent on the socket from which the request came. Its type is that of the
    /// request with `_reply`.
    pub fn reply(&self, content: Value) -> JupyterMessage {
        let kind = self.kind().replace("_request", "_reply");
        self.message(&kind, content)
    }

    /// Makes a message to the client of this request.
    pub fn message(&self, kind: &str, content: Value) -> JupyterMessage {
        message(kind, content, Some(self), self.identities.clone())
    }
}

fn message(
    kind: &str,
    content: Value,
    parent: Option<&Request>,
    identities: Vec<bytes::Bytes>,
) -> JupyterMessage {
    let content = JupyterMessageContent::UnknownMessage(UnknownMessage {
        msg_type: kind.into(),
        content,
    });
    let mut message = JupyterMessage::new(content, None);
    message.header.username = "kernel".into();
    message.header.version = PROTOCOL.into();
    message.parent_header = parent.map(|p| (*p.header).clone());
    message.zmq_identities = identities;
    message
}

/// Publishes messages on the channel that all clients read (IOPub), in the order of the calls.
#[derive(Clone)]
pub struct Publisher {
    queue: UnboundedSender<JupyterMessage>,
}

impl Publisher {
    pub fn new(queue: UnboundedSender<JupyterMessage>) -> Self {
        Self { queue }
    }

    /// Publishes a message, as a consequence of a request if there is one.
    pub fn publish(&self, kind: &str, content: Value, parent: Option<&Request>) {
        let topic = vec![bytes::Bytes::from(format!("kernel.{kind}"))];
        let _ = self.queue.send(message(kind, content, parent, topic));
    }

    /// Publishes whether the kernel works on a request: `busy`, `idle` or `starting`.
    pub fn status(&self, state: &str, parent: Option<&Request>) {
        self.publish("status", json!({ "execution_state": state }), parent);
    }
}
