// Plain amqplib: a confirm channel, a consumer, a returned message, a refused operation, a cancelled consumer.
// Prints what it saw, as JSON.
'use strict';

const { once } = require('node:events');
const amqplib = require('amqplib');
const { settings } = require('./application');

async function main() {
  const connection = await amqplib.connect(settings.url);
  const queue = `${settings.prefix}.amqplib`;
  const seen = {};

  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, { durable: true, maxPriority: 5 });
  await channel.prefetch(10);
  for (let number = 0; number < 100; number++) {
    channel.sendToQueue(queue, Buffer.from(`hello ${number}`), { persistent: true, headers: { number } });
  }
  await channel.waitForConfirms();
  seen.waiting = (await channel.checkQueue(queue)).messageCount;

  seen.bodies = [];
  seen.cancelled = false;
  await new Promise((resolve) => {
    channel.consume(queue, (message) => {
      if (message === null) {
        seen.cancelled = true; // the queue is gone
        return;
      }
      seen.bodies.push(message.content.toString());
      channel.ack(message);
      if (message.properties.headers.number === 99) resolve();
    });
  });

  const returned = once(channel, 'return');
  channel.publish('', `${queue}.nowhere`, Buffer.from('lost'), { mandatory: true });
  await channel.waitForConfirms();
  seen.returned = (await returned)[0].fields.replyText;

  const doomed = await connection.createChannel();
  const failed = once(doomed, 'error');
  seen.refused = (await doomed.checkQueue(`${queue}.nowhere`).catch((error) => error)).message;
  await failed;

  await channel.deleteQueue(queue);
  await channel.close();
  await connection.close();
  console.log(JSON.stringify(seen));
}

main();
